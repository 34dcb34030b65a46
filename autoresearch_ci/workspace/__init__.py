"""git: the only place where commits are made, and the only one that knows GitPython.

`checkout` looks at the user's repository, `research` (on `clone`, `objects` and `refs`) keeps a session in a bare clone
of our own, `remote` knows where it is pushed to, `reverting` takes kept changes out again, and `merging` brings a
finished branch home.
"""

from autoresearch_ci.workspace.checkout import Author, Checkout, find_author, inspect_repository
from autoresearch_ci.workspace.creation import new_repository
from autoresearch_ci.workspace.merging import MergeMethod, merge_branch
from autoresearch_ci.workspace.remote import Remote
from autoresearch_ci.workspace.research import Standing, Workspace
from autoresearch_ci.workspace.reverting import Reduced, merged_script, push_without

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
    "merge_branch",
    "merged_script",
    "new_repository",
    "push_without",
]
