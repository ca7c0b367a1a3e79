"""`gaincell lm-eval`: the evaluation harness's own command, with the model type `gaincell` in it."""

from __future__ import annotations

import typer

lm_eval = typer.Typer(add_completion=False)


@lm_eval.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def run(context: typer.Context) -> None:
    """The command of lm-evaluation-harness with the model type `gaincell`; the options are the harness's.

    Newer releases of the harness find the model type by themselves, so `lm-eval run --model gaincell`
    works. Releases up to 0.4.13 do not, and need this command. --model_args takes path=MODEL|RUN, and
    optionally design=, cell=, attention_backend=, dtype=, max_length=. (attention_backend= is the --backend
    of other commands; the harness has a backend= of its own.)

    Example: gaincell lm-eval run --model gaincell --model_args path=adapters/smollm2-135m --tasks piqa

    Example: gaincell lm-eval run --help
    """
    from gaincell.evaluation.harness_model import run_command

    run_command(context.args)
