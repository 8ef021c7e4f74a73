"""`python -m holdingpen.ctl` is holdingpenctl."""

import sys

from holdingpen.ctl.main import main

sys.exit(main())
