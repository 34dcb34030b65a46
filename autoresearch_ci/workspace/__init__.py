"""git: the only place where commits are made, and the only one that knows GitPython.

`checkout` looks at the user's repository, `research` (on `clone`, `objects` and `refs`) keeps a session in a bare clone
of our own, `exchange` brings it to where `remote` says, `looking` reads sessions from anywhere, `reverting` takes kept
changes out again, and `merging` brings a finished branch home.
"""

from autoresearch_ci.workspace.checkout import Author, Checkout, find_author, inspect_repository
from autoresearch_ci.workspace.creation import new_repository
from autoresearch_ci.workspace.looking import list_sessions, read_session
from autoresearch_ci.workspace.merging import MergeMethod, merge_branch
from autoresearch_ci.workspace.remote import Remote
from autoresearch_ci.workspace.research import Standing, Workspace
from autoresearch_ci.workspace.reverting import Reduced, push_without
from autoresearch_ci.workspace.scripts import merged_script

__all__ = [
    "Author",
    "Checkout",
    "MergeMethod",
    "Reduced",
    "Remote",
    "Standing",
    "Workspace",
    "find_author",
    "inspect_repository",
    "list_sessions",
    "merge_branch",
    "merged_script",
    "new_repository",
    "push_without",
    "read_session",
]
