"""The program `declip-pipe`: a file per command, and what the commands share.

Commands are the modules that `stages.app` lists; those of a group with several commands are in a
package (`cache`), groups of one command are one module (`data`, `runs`). Shared are `options`,
`training_options` and `settings` (what a user gives), `texts` and `help_page` (how it is spelled
and shown), `screen` and `signals`. Other modules belong to the commands that import them.
"""
