"""Random calls of the oneDNN inside jaxlib, between pages that nobody may touch, against float64.

`python tests/engine/proof --jaxlib 0.12.0.1 --draws 20000` draws calls that `jdeconv._engine.onednn` may make, runs
them in processes of their own, and reports each crash, hang, wrong number and byte written beyond an array with a line
to paste. The modules, in the order in which a draw passes through them:

  networks      layers of real networks
  draws         random calls: tiny and odd ones, layers of networks, channels around vectors' sizes, large images
  guard         the allocator (guard.c): builds it, preloads it, asks it where arrays lie
  truth         operands, the definition in float64, the bound that follows from the terms
  own_programs  jdeconv's own programs, for `--engine xla`
  worker        the process that runs programs of several calls
  processes     starts workers, outlives them, finds the call that ended one
  environments  interpreters with the asked version of jaxlib
  report        what was found, as JSON and Markdown, and the rows of jdeconv's table of evidence
  faults        the known faults, which the harness must find again
"""
