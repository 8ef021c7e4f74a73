"""`python -m holdingpen` is the daemon."""

import sys

from holdingpen.daemon.run import main

sys.exit(main())
