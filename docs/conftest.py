"""The pages' blocks with >>> are run, under the tests' settings; what mkdocs imports is not."""

import tests.conftest  # noqa: F401 - its settings

collect_ignore = ["hooks/pages.py", "hooks/docstrings.py"]
