#!python
"""Installed as the command `gatekeeper`; pip puts the interpreter's path above.

The script that pip itself makes of an entry point imports re, which takes 5 ms.
"""

import sys

from gatekeeper.__main__ import main

sys.exit(main())
