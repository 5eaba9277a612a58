"""The warm run lane: Dagster runs forked from one pre-imported process, instead of a new interpreter each.

launcher.py is the RunLauncher that dagster.yaml names; host.py is the process that imports the code location once and
forks a child for each run; protocol.py is the one-line JSON they speak over a Unix socket.

Every run keeps a process, a log and a crash of its own, as with the stock launcher; what is saved is the second and a
half of interpreter start and imports.
"""
