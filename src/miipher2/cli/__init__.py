"""The `miipher2` command: each subcommand parses its options and calls the packages below it.

arguments           types of command-line values
main                the parser of the whole command; errors in one line
restore             restore recordings; the options of every command that restores
export              a bundle, and ONNX graphs
demo                a page to restore recordings in a browser
degrade             degraded recordings, for test sets
evaluate            metrics of files or folders
checkpoint          the subcommands of `checkpoint`
checkpoint_ls       checkpoints that can be resumed
checkpoint_show     what a checkpoint holds, and the command that resumes from it
checkpoint_diff     differences between two checkpoints
checkpoint_verify   checksums and contents
checkpoint_replay   training again from a checkpoint, to compare bits
doctor              leftovers of killed processes, and their repair
doctor_checks       the checks of `doctor`
params              params.yaml from configs/
"""
