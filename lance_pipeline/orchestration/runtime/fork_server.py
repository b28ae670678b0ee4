"""What the fork server imports, once for all steps that are forked from it.

Steps add what they need themselves, with a tag. Never lance, whose threads do not survive a fork.
"""

import signal

import lance_pipeline.orchestration.component  # noqa: F401
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user

keep_to_the_user()

# A SIGTERM to the whole process group is for the executor, which tells the steps. The fork server ends after them, or
# the executor would not learn how they ended. (It ignores SIGINT by itself.)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
