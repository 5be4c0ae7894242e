# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The releases of transformers that this code was tested with, and what it says of a newer one."""

import re

import transformers
from transformers.utils import logging


OLDEST_TESTED, NEWEST_TESTED = (5, 23), (5, 24)

logger = logging.get_logger(__name__)


def warn_of_untested_transformers(version: str = transformers.__version__) -> None:
    """Says once that a release (major and minor number) is newer than all that were tested.

    Args:
        version: As transformers writes it, for instance "5.24.0" or "5.25.0.dev0".
    """
    release = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if release > NEWEST_TESTED:
        tested = " to ".join(".".join(map(str, tested)) for tested in (OLDEST_TESTED, NEWEST_TESTED))
        logger.warning_once(
            f"RWKV-7 World was tested with transformers {tested}, and this is {version}. If something goes wrong, "
            f"try it with `pip install 'transformers<{NEWEST_TESTED[0]}.{NEWEST_TESTED[1] + 1}'` first."
        )
