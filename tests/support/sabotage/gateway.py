"""A gateway without some of its protections: python -m tests.support.sabotage.gateway SWITCH..."""

import sys

from services.gateway.main import main
from tests.support.sabotage.switches import throw

if __name__ == "__main__":
    throw(sys.argv[1:])
    main()
