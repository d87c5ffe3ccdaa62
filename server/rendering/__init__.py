"""From stored values to pictures, and from reports to text: pure functions, no storage and no HTTP.

The order of PS3.4 N.2 is the order of the modules: `grayscale` and `colour` make 8-bit pictures, `placing` turns,
cuts and scales them, `marks` draws what lies on top, `encoding` makes files of them. `state` reads presentation states.
"""
