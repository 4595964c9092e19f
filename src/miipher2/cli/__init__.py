"""The `miipher2` command: each subcommand parses its options and calls the packages below it.

arguments        types of command-line values
main             the parser of the whole command; errors in one line
restore          restore recordings; the options of every command that restores
export           a bundle, and ONNX graphs
import_weights   weights of other projects
demo             a page to restore recordings in a browser
degrade          degraded recordings, for test sets
evaluate         metrics of files or folders
checkpoint       the subcommands that look at checkpoints
doctor           leftovers of killed processes, and their repair
doctor_checks    the checks of `doctor`
params           params.yaml from configs/
"""
