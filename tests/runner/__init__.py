"""A mini runner: runs the steps of a composite action as GitHub's runner runs them, without GitHub.

Its rules are from actions/runner: `bash --noprofile --norc -eo pipefail FILE` for `shell: bash`
(ScriptHandlerHelpers.cs), fresh command files for every step (FileCommandManager.cs), `always()` steps after failures
and cancellation (CompositeActionHandler.cs), and SIGINT, SIGTERM, SIGKILL when a job is cancelled (ProcessInvoker.cs).
What a workflow hands to the action for an event, `start` tells. Left out: what a step writes to GITHUB_ENV and GITHUB_PATH
does not reach the next one.
"""

from tests.runner.action import ActionResult, ActionRunner, StepResult, machine_environment
from tests.runner.cancellation import KILL, RUNNER_LADDER, Cancellation
from tests.runner.workflow import Event, Job, Started, start

__all__ = [
    "KILL",
    "RUNNER_LADDER",
    "ActionResult",
    "ActionRunner",
    "Cancellation",
    "Event",
    "Job",
    "Started",
    "StepResult",
    "machine_environment",
    "start",
]
