"""`miipher2 checkpoint`: each subcommand has a module of its own, imported when it runs.

commands   the parsers of all subcommands, and their help
ls         checkpoints that can be resumed
show       what a checkpoint holds, and the command that resumes from it
diff       differences between two checkpoints
verify     checksums and contents
replay     training again from a checkpoint, to compare bits
"""
