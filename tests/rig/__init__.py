"""The fault rig: worker processes, browsers, faults, and an oracle that judges what the browsers saw.

`network` and `worker` are what is troubled, `browsers` and `http` those who suffer it, `*_faults` the troubles;
`history`, `checks` and `convergence` judge.  `rig` holds it all together, and `run` is the command.
"""
