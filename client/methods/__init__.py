"""The comparators: all methods that STEPH is compared with, behind one interface (:mod:`.task`)."""
