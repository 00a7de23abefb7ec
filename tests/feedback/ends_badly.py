"""A command that fails, for tests of what runs commands."""

import sys

print("something broke")
sys.exit(3)
