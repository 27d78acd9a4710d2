"""What is known of each platform, as data: driver, end marker, volatile and error lines, secrets.

Supporting one more platform is one more row in `table.py`.
"""

from exporter.platforms.row import Platform, UnknownPlatform
from exporter.platforms.table import PLATFORM_NAMES, platform_named

__all__ = ["PLATFORM_NAMES", "Platform", "UnknownPlatform", "platform_named"]
