"""Exit status 0 when the app answers on this machine; for HEALTHCHECK, in an image without curl."""

import os
import sys
import urllib.error
import urllib.request

base = os.environ.get("MOYU_BASE_PATH", "").strip("/")
address = f"http://127.0.0.1:{os.environ.get('PORT', '8501')}/{base + '/' if base else ''}_stcore/health"
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: it is this machine
try:
    with direct.open(address, timeout=4) as answer:
        sys.exit(answer.read() != b"ok")
except (urllib.error.URLError, OSError):
    sys.exit(1)
