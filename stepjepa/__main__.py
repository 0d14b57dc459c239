"""`python -m stepjepa`, also under `torchrun -m` and `accelerate launch -m`."""

import sys

from stepjepa.commands.main import main

sys.exit(main())
