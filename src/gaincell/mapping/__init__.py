"""The main job: from a pretrained model to gain-cell hardware, stage by stage.

`initial.py` finds first gains and offsets, `transfer.py` teaches the arrays what softmax attention does,
`pipeline.py` runs the stages, `folder.py` keeps their results so that an interrupted run goes on.
"""
