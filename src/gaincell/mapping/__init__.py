"""The main job: from a pretrained model to gain-cell hardware, stage by stage.

`pipeline.py` is `gaincell map`, `readapt.py` `gaincell adapt`, `codesign.py` `gaincell codesign`, and
`run_recipe.py` with the `recipe*.py` `gaincell train`. `engine.py` runs the stages of all of them, and
`run_folder.py` keeps results, so that an interrupted run goes on. `initial_gains.py` finds first gains and
offsets; what trains lies in `gaincell.training`. `load_hardware.py` loads the model of a RUN, for every other
command.
"""
