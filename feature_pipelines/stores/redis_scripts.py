"""What runs inside Redis: each script reads and changes one key, so it is atomic and any cluster can run it.

Positions are those of the layouts in `redis`, counted from 1 as Lua does. Nothing here is a number to Lua: bytes are compared
one by one.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["ADVANCE", "DELETE", "PURGE", "REGISTER", "WRITE", "Script"]


class Script(NamedTuple):
    """A script's text, and the name under which a server keeps it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - how Redis names scripts


_NEWER = """
local function newer(a, b, first, last)
  if string.sub(a, first, last) == string.sub(b, first, last) then return false end
  for i = first, last do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return false
end
"""

WRITE = _script(
    _NEWER
    + """
local held = redis.call('GET', KEYS[1])
if held then
  if string.byte(held, 1) ~= string.byte(ARGV[1], 1) then return -1 end
  if not newer(ARGV[1], held, 2, 49) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""
)

PURGE = _script(
    """
local held = redis.call('GETRANGE', KEYS[1], 0, 8)
if #held < 9 then return 0 end
for i = 1, 8 do
  local x, y = string.byte(held, i + 1), string.byte(ARGV[1], i)
  if x > y then return 0 end
  if x < y then return redis.call('DEL', KEYS[1]) end
end
return 0
"""
)

DELETE = _script("return redis.call('DEL', KEYS[1])")

# version 1, flags 2, W 3-10, schema 11-18, epoch 19-26, source from 27
REGISTER = _script(
    """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local held = redis.call('GET', KEYS[1])
local same = string.sub(held, 1, 1) == string.sub(ARGV[1], 1, 1) and string.sub(held, 11, 18) == string.sub(ARGV[1], 11, 18)
if same and #held == 26 and #ARGV[1] > 26 and string.byte(held, 2) % 2 == 0 then
  held = held .. string.sub(ARGV[1], 27)
  redis.call('SET', KEYS[1], held)
end
return held
"""
)

# answers with the state after, whatever became of it
ADVANCE = _script(
    _NEWER
    + """
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 11, 26) ~= string.sub(ARGV[1], 11, 26) then return held end
local has_w = string.byte(held, 2) % 2 == 1
if has_w and newer(held, ARGV[1], 3, 10) then return held end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""
)
