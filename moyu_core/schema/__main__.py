"""`python -m moyu_core.schema`: print the column reference."""

import sys

from moyu_core.schema.reference import reference

sys.stdout.write(reference())
