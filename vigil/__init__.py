"""vigil: raw surveillance video in; labelled, timed answers out.

`vigil.extract`, `vigil.data`, `vigil.model` and `vigil.pipeline` are the folders beside this one,
reached through links, so that the source tree and the installed package have the same names.
"""
