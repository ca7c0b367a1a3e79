"""The gain-cell attention of one layer: four scaling stages around the arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.errors import ModelError
from gaincell.nn.array_normaliser import ArrayNormaliser, check_one_normaliser
from gaincell.nn.balanced_rows import MIDDLE, Balance
from gaincell.nn.checks import check_names, check_unsigned
from gaincell.nn.scaler import STAGES, Scaler
from gaincell.nn.softmax import SoftmaxAttention
from gaincell.nn.value_rotation import ValueRotation
from gaincell.ops.gain_cell_attention import attention_from_voltages, gain_cell_attention
from gaincell.ops.gain_cell_attention.call import Gradient, Scaling
from gaincell.ops.gain_cell_attention.input_stage import scaled

BIASES = ("value_bias", "output_bias")
"""Names of the bias vectors that a layer can have: per key/value head, and per query head."""
EXPONENTS = ("q.exponent", "out.exponent")
"""Names of the exponents that a layer can have."""
At = tuple[Tensor | None, Tensor | None, int | None]
"""Key index, query index and the model's own window."""


class Asked(NamedTuple):
    """What the arrays of a layer are asked for."""

    q: Float[Tensor, "B H Tq D"]
    k: Float[Tensor, "B Hk Tk D"]
    v: Float[Tensor, "B Hk Tk D"]
    scaling: Scaling | None
    """What whoever computes the arrays has to apply; None: q, k and v are pulse widths and volts."""
    scales_output: bool
    """Whether that is all of the output's scaling, too."""
    columns: Int[Tensor, "#B Tq"] | None
    """That every query reads: see `GainCellAttention.columns`."""

    @property
    def volts(self) -> tuple[Float[Tensor, "B Hk Tk D"], Float[Tensor, "B Hk Tk D"]]:
        """Of keys and values."""
        if self.scaling is None:
            return self.k, self.v
        return scaled(self.k, *self.scaling[2:4]), scaled(self.v, *self.scaling[4:6])


class GainCellAttention(nn.Module):
    """Attention of one layer's heads in gain-cell arrays, equations (3) and (5) to (9) of the paper [M].

        out_id = a_o sum_t Qout(clamp(O_t,id / O_sat, -1, 1)) + b_o

    with q, k and v each scaled by their own stage before the driver and the write DAC quantise them. The
    initial values are those of the released code [R]: q (1, 0), k and v (1, V_offset), output (1, 0).

    `add_biases` gives a layer two vectors: v_jd + c_d of every key/value head before its scaling, out_id +
    e_d of every query head after it. The model computes both as biases, c of v_proj and W_o e of o_proj: they
    are no hardware, nor is `rotate_values` (value_rotation.py). `add_exponents` lets the gains of q and of
    the output follow the number of columns read (`Scaler`), and `add_normaliser` divides
    (array_normaliser.py): both in the digital block.

    Args:
        design: The chip; its ``token_period`` must already be that of the whole model.
        heads: Query heads H.
        kv_heads: Key/value heads Hk; H is a multiple of it.
        head_dim: D, rows of a key array and columns of a value array.
        layer: Which layer this is: mismatch is drawn per (layer, head).
        backend: Implementation of the arrays, see ``gain_cell_attention``.
        gradient: Of the cells in the backward pass, see ops/gain_cell_attention/call.py.
        dtype: Of gains and offsets.
        device: Of gains and offsets.

    Raises:
        InputError: there is no such backend or gradient.

    Not modelled: dropout of attention weights (an array has none), attention sinks, soft-capping,
    additive biases.
    """

    def __init__(
        self,
        design: Design,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        layer: int = 0,
        backend: BackendName = "auto",
        gradient: Gradient = "exact",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_names(backend, gradient)
        self._design = design
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.layer = layer
        self.backend: BackendName = backend
        self.gradient: Gradient = gradient
        self.q = Scaler(heads, dtype=dtype, device=device)
        self.k = Scaler(kv_heads, offset=design.v_offset, dtype=dtype, device=device)
        self.v = Scaler(kv_heads, offset=design.v_offset, dtype=dtype, device=device)
        self.out = Scaler(heads, dtype=dtype, device=device)
        self.value_bias: nn.Parameter | None
        self.output_bias: nn.Parameter | None
        for name in BIASES:
            self.register_parameter(name, None)
        self.rotation: ValueRotation | None = None
        self.normaliser: ArrayNormaliser | None = None
        self.softmax = SoftmaxAttention()
        """What computes in place of the arrays where the model's own attention is asked for."""
        self.attend: Callable[..., Tensor] = gain_cell_attention
        """What computes the arrays; another while circuits are learned (training/codesign.py)."""

    @property
    def design(self) -> Design:
        """The chip."""
        return self._design

    @design.setter
    def design(self, design: Design) -> None:
        if self.k.kept is not None or self.k.balance is not None:
            check_unsigned(design, balanced=self.k.balance is not None)
        if self.k.balance is not None:
            self.k.balance.design = design
        self._design = design

    def __getstate__(self) -> dict[str, Any]:
        """What is copied: not what training/compiled.py compiled, as torch's own modules do."""
        compiled = (GainCellAttention.values.__name__, GainCellAttention.output.__name__)
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in compiled}

    def add_biases(self, dtype: torch.dtype = torch.float32) -> None:
        """Give the values and the output a bias vector per head, both zero, to be trained."""
        for name, heads in zip(BIASES, (self.kv_heads, self.heads), strict=True):
            zeros = torch.zeros(heads, self.head_dim, dtype=dtype, device=self.out.gain.device)
            setattr(self, name, nn.Parameter(zeros))

    def add_exponents(self) -> None:
        """Give the scaling of q and of the output an exponent per head: see `Scaler`."""
        self.q.add_exponent()
        self.out.add_exponent()

    def rotate_values(self) -> None:
        """Rotate the values of every head, and its outputs back (value_rotation.py).

        Raises:
            ModelError: there is no bias of the output, which takes the place of its offset, or there is a
                normaliser already, or D is no power of two.
        """
        if self.output_bias is None or self.normaliser is not None:
            raise ModelError("rotated values need biases of the output: add them first, and normalisers last")
        self.rotation = ValueRotation(self.head_dim, self.out.gain)

    def add_normaliser(self) -> None:
        """Let the last row of the value arrays hold a constant, and divide by what it counts.

        Raises:
            ModelError: the design has a normalising column, or there is no bias of the output, which returns
                the mean of what is given up.
        """
        check_one_normaliser(self.design)
        if self.output_bias is None:
            raise ModelError("a normaliser inside the arrays needs biases of the output: add them first")
        self.normaliser = ArrayNormaliser(self.heads, self.kv_heads, self.head_dim, self.out.gain)

    def pair_rows(self, row_index: Int[Tensor, "Hk half"]) -> None:
        """Put these components of every head's q and k into rows twice (integrations/hf/paired.py).

        Raises:
            ModelError: the design's queries have a sign, or rows are balanced.
        """
        check_unsigned(self.design)
        if self.q.turned is not None:
            raise ModelError(f"layer {self.layer} has balanced rows; they cannot be paired besides")
        self.k.kept = row_index.to(self.k.gain.device)
        self.q.kept = self.k.kept.repeat_interleave(self.heads // self.kv_heads, 0)

    def balance_rows(self) -> None:
        """Drive queries about half a pulse, and let every column of the key arrays add up to the same
        (balanced_rows.py); nothing is stretched before that is fitted.

        Raises:
            ModelError: the design's queries have a sign or no full pulses, rows are paired, or D is no power
                of two.
        """
        check_unsigned(self.design, balanced=True)
        if self.k.kept is not None:
            raise ModelError(f"layer {self.layer} has paired rows; they cannot be balanced besides")
        self.q.turn(self.head_dim, None)
        with torch.no_grad():
            self.q.offset.fill_(MIDDLE)
        self.k.turn(self.head_dim, Balance(self.design, self.kv_heads, self.k.gain))

    def is_uncalibrated(self) -> bool:
        """Whether every gain and offset is still its initial value; not if they wait elsewhere."""
        centre = self.design.v_offset
        middle = 0.0 if self.k.balance is None else MIDDLE
        stages = ((self.q, middle), (self.k, centre), (self.v, centre), (self.out, 0.0))
        return not self.q.gain.is_meta and all(
            bool(((s.gain == 1) & (s.offset == offset)).all()) for s, offset in stages
        )

    def extras(self) -> list[nn.Parameter]:
        """The biases and exponents that there are."""
        found = (self.value_bias, self.output_bias, self.q.exponent, self.out.exponent)
        return [number for number in found if number is not None]

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, ""]) -> None:
        """Compute the same from now on with arrays whose outputs are divided by a factor above 0."""
        if self.normaliser is None:
            self.out.gain.mul_(factor.to(self.out.gain.dtype))
        else:
            self.normaliser.log_floor.sub_(factor.log().to(self.normaliser.log_floor.dtype))

    def columns(
        self,
        q: Float[Tensor, "B H Tq D"],
        k: Float[Tensor, "B Hk Tk D"],
        v: Float[Tensor, "B Hk Tk D"],
        key_index: Int[Tensor, "B Tk"] | None = None,
        query_index: Int[Tensor, "B Tq"] | None = None,
        sliding_window: int | None = None,
    ) -> Int[Tensor, "#B Tq"] | None:
        """Columns that every query reads, its own among them; None where no exponent asks for it.

        The arguments are those of `forward`. A padding token counts one.

        Raises:
            ModelError: the design holds first tokens beside the ring, which are not counted.
        """
        if self.q.exponent is None:
            return None
        if self.design.sinks.tokens:
            raise ModelError(
                f"{self.design.name} holds first tokens in columns of their own ([sinks]), which gains that "
                "follow the columns read do not count; give a design without, or a model without exponents"
            )
        index = query_index
        if index is None:
            every = torch.arange(k.shape[2], device=k.device)[None] if key_index is None else key_index
            index = every[:, every.shape[1] - q.shape[2] :]
        most = self.design.window if sliding_window is None else min(self.design.window, sliding_window)
        return (index + 1).clamp(1, most)

    def volts(
        self, k: Float[Tensor, "B Hk T D"], v: Float[Tensor, "B Hk T D"]
    ) -> tuple[Float[Tensor, "B Hk T D"], Float[Tensor, "B Hk T D"]]:
        """What the write DACs are asked for, V.

        Raises:
            ModelError: there are two normalisers.
        """
        return self.k(k), self.with_constant(self.v(self.values(v)))

    def values(self, v: Float[Tensor, "B Hk T D"]) -> Float[Tensor, "B Hk T rows"]:
        """What the scaling of v is given: v + c, rotated; with a normaliser all but its last component."""
        if self.value_bias is not None:
            v = v + self.value_bias[:, None]
        v = v if self.rotation is None else self.rotation(v)
        return v if self.normaliser is None else self.normaliser.reflected(v)[..., :-1]

    def with_constant(self, scaled: Float[Tensor, "B Hk T rows"]) -> Float[Tensor, "B Hk T D"]:
        """Scaled values, V, and with a normaliser what its row holds.

        Raises:
            ModelError: there are two normalisers.
        """
        if self.normaliser is None:
            return scaled
        check_one_normaliser(self.design)
        return nn.functional.pad(scaled, (0, 1), value=self.design.v_max)

    def output(
        self, attended: Float[Tensor, "B H T D"], columns: Int[Tensor, "#B T"] | None
    ) -> Float[Tensor, "B H T D"]:
        """What the layer passes on, of what the arrays give for queries of so many `columns`."""
        if self.normaliser is None:
            return self.returned(self.out(attended, columns))
        scaled = self.out(self.normaliser.divided(attended), columns)
        return self.returned(self.normaliser.reflected(nn.functional.pad(scaled, (0, 1))))

    def returned(self, scaled: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
        """Scaled outputs rotated back, with their bias."""
        scaled = scaled if self.rotation is None else self.rotation(scaled)
        return scaled if self.output_bias is None else scaled + self.output_bias.to(scaled.dtype)[:, None]

    def forward(
        self,
        q: Float[Tensor, "B H Tq D"],
        k: Float[Tensor, "B Hk Tk D"],
        v: Float[Tensor, "B Hk Tk D"],
        key_index: Int[Tensor, "B Tk"] | None = None,
        query_index: Int[Tensor, "B Tq"] | None = None,
        sliding_window: int | None = None,
    ) -> Float[Tensor, "B H Tq D"]:
        """Attend with the model's own q, k, v (after rotary embedding and norms).

        Args:
            q: Queries of the last Tq tokens.
            k: Keys of all tokens still held, padding included.
            v: Their values.
            key_index: Number of the real token in each key slot, -1 for padding, which is never written.
            query_index: The same for the queries; by default the last Tq of ``key_index``.
            sliding_window: The model's own window W: columns of age W and more are gated.

        Returns:
            The scaled output of every head, in the type of ``q``, or in float32 where that is narrower.
        """
        at = (key_index, query_index, sliding_window)
        return self.answer(self.asked(q, k, v, at), at)

    def read(
        self, asked: Asked, k: Tensor, v: Tensor, at: At, extra_age: Float[Tensor, "B held"]
    ) -> Float[Tensor, "B H Tq D"]:
        """`answer` from what a ring holds already, k and v, as `attention_from_voltages` takes them."""
        q = asked.q if asked.scaling is None else scaled(asked.q, *asked.scaling[:2])
        keys, queries, window = at
        attended = attention_from_voltages(
            *(q, k, v, self.design, self.backend),
            key_index=keys,
            query_index=queries,
            sliding_window=window,
            layer=self.layer,
            extra_age=extra_age,
        )
        return self.output(attended, asked.columns)

    def sums(
        self,
        q: Float[Tensor, "B H Tq D"],
        k: Float[Tensor, "B Hk Tk D"],
        v: Float[Tensor, "B Hk Tk D"],
        at: At = (None, None, None),
    ) -> Float[Tensor, "B H Tq D"]:
        """What the arrays give, before the scaling of the output."""
        return self._attend(self.asked(q, k, v, at, output=False), at)

    def asked(self, q: Tensor, k: Tensor, v: Tensor, at: At, *, output: bool = True) -> Asked:
        """What q, k and v ask of the arrays. What is more than gain and offset is done here, the rest left to
        `attend` where that can, with `output` that of the output, too: the compiled kernel scales in passing.
        """
        columns = self.columns(q, k, v, *at)
        stages = vars(self)["_modules"]  # see Scaler.plain
        inside = {name: stages[name].plain for name in STAGES}
        if self.normaliser is not None:
            inside["v"] = inside["out"] = False
        left = self.attend is gain_cell_attention and (inside["q"] or inside["k"] or inside["v"])
        if not left or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in (q, k, v)):
            return Asked(self.q(q, columns), *self.volts(k, v), None, False, columns)
        inside["out"] = inside["out"] and output
        given = {"q": q, "k": k, "v": self.values(v)}
        given = {name: x if inside[name] else stages[name](x, columns) for name, x in given.items()}
        numbers = [number for name in inside for number in _gain_and_offset(stages[name], inside[name])]
        volts = self.with_constant(given["v"])
        return Asked(given["q"], given["k"], volts, Scaling(*numbers), inside["out"], columns)

    def answer(self, asked: Asked, at: At) -> Float[Tensor, "B H Tq D"]:
        """`forward` for what the arrays are asked for."""
        return self.layer_output(self._attend(asked, at), asked)

    def layer_output(self, attended: Float[Tensor, "B H T D"], asked: Asked) -> Float[Tensor, "B H T D"]:
        """The output of the layer, of what the arrays give."""
        return self.returned(attended) if asked.scales_output else self.output(attended, asked.columns)

    def _attend(self, asked: Asked, at: At) -> Tensor:
        keys, queries, window = at
        return self.attend(
            *(*asked[:3], self.design, asked.scaling, self.backend),
            key_index=keys,
            query_index=queries,
            sliding_window=window,
            layer=self.layer,
            gradient=self.gradient,
        )

    def extra_repr(self) -> str:
        sizes = (f"{name}={getattr(self, name)}" for name in ("layer", "heads", "kv_heads", "head_dim"))
        return f"{', '.join(sizes)}, design={self.design.name!r}, cell={self.design.cell.name!r}"


def _gain_and_offset(stage: Scaler, inside: bool) -> tuple[Tensor, Tensor]:
    """Those of a stage in float32; 1 and 0 for one that is computed elsewhere."""
    if inside:
        numbers = vars(stage)["_parameters"]  # see Scaler.plain
        return numbers["gain"].float(), numbers["offset"].float()
    one = torch.ones(len(stage.gain), dtype=torch.float32, device=stage.gain.device)
    return one, torch.zeros_like(one)
