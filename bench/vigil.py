"""`python -m bench.vigil` is `vigil` with the stand-ins for a network among its backbones."""

import sys

if __name__ == "__main__":
    from bench import standin
    from vigil.pipeline import cli

    standin.register()
    sys.exit(cli.main())
