"""Modules that the fork server imports once for all steps forked from it.

Steps add their own modules by a tag. Never import lance here: its threads do not survive a fork.
"""

import signal

import lance_pipeline.orchestration.component  # noqa: F401
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user

keep_to_the_user()

# On a SIGTERM to the whole process group, the executor stops the steps. The fork server must outlive them, otherwise
# the executor would not learn how they ended. (It ignores SIGINT by itself.)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
