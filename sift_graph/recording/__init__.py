"""The parts of the recorder: when to look, where snapshots go, what is measured of them, and how it ends.

``cadence``   at which steps the masks are looked at, and the weights stored
``pipeline``  the run directory, written behind a bounded queue; what is on disk or on its way
``reading``   masks that a user hands over, and the hooks of an optimizer
``ending``    what happens on SIGTERM
``measuring`` core metrics of each snapshot, by a process of low priority (``worker``)
"""
