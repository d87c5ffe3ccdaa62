"""The server.

What it loads stays: to look for garbage among it all the while it is being loaded takes a tenth of the time of a start.
"""

import gc

gc.set_threshold(100_000, 20, 50)
