# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Licences that the Hub knows, and what is wrong with one that it does not.

From `docs/hub/repositories-licenses.md` of https://github.com/huggingface/hub-docs, commit fd6cf1f of 2026-06-06; what
`other` needs is in its `docs/hub/model-cards.md`.
"""

import difflib
import re
from collections.abc import Collection, Iterator


OTHER = "other"
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community
    h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail openrail++ osl-3.0 other
    pddl postgresql unknown unlicense wtfpl zlib
    """.split()
)


def license_problems(license: str | None, name: str | None, link: str | None, files: Collection[str]) -> Iterator[str]:
    """What the Hub would not take of a licence.

    Args:
        license: Its identifier.
        name: Its name, which `other` needs.
        link: Where its text is: an address, or a file beside the model. `other` needs that or a file LICENSE.
        files: Those beside the model.
    """
    if not license:
        yield "no licence is set; give --license, for instance --license apache-2.0"
    elif license not in LICENSES:
        yield f"licence {license!r} is unknown to the Hub{_suggestion(license)}"
    if license != OTHER:
        return
    if not name:
        yield "licence other needs --license-name"
    if link and "://" not in link and link not in files:
        yield f"licence other: --license-link {link!r} is no address and no file of the folder"
    if not link and "LICENSE" not in files:
        yield "licence other needs its text: a file LICENSE, or --license-link"


def _suggestion(license: str) -> str:
    plain = {_plain(known): known for known in LICENSES}
    near = difflib.get_close_matches(_plain(license), plain, n=1)
    return f"; did you mean {plain[near[0]]!r}?" if near else "; use other with --license-name and --license-link"


def _plain(license: str) -> str:
    """As it would be found whatever the spelling: "Apache License 2.0" and "apache-2.0" are the same."""
    return re.sub(r"licen[sc]e|version|[^a-z0-9+]", "", license.lower())
