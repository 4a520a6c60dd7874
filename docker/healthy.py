"""Exit with 0 if the page answers that HEALTH_URL names; a container without one is healthy as long as it runs."""

import os
import sys
import urllib.request

url = os.environ.get("HEALTH_URL")
if url:
    with urllib.request.urlopen(url, timeout=8) as answer:  # noqa: S310
        sys.exit(answer.status != 200)
