"""Methods of what lies low that rooms above it carry out: `trace.report()`, `site.plot()`.

The one exception to "imports go down the list only": this room lies below `trace`, whose classes
take their methods from it, and names rooms above. It imports them when a method is called, and
never before; the test of imports knows it by name. Its files: `trace` and `handover` for methods of
`Trace`, `site` for those of `Site`, `results` for those of what an analysis gives.
"""
