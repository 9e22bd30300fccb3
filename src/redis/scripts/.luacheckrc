-- For luacheck of the joined scripts. The globals are those that Redis provides to a script.
std = {
  globals = {},
  read_globals = {
    'ARGV', 'KEYS', 'error', 'ipairs', 'math', 'next', 'pairs', 'pcall', 'redis', 'string', 'table', 'tonumber', 'tostring',
    'type', 'unpack',
  },
}
max_line_length = false
ignore = {
  -- A script may use only a part of a library file.
  '211/T', '211/allowed', '211/count', '211/detach', '211/holds_run', '211/last_field', '211/late',
  '211/now_ns', '211/remove_leftovers', '211/remove_tasks', '211/seconds_up', '211/words_after',
  '211/act', '211/many', '231/fault',
  -- Library functions take the prefix of a queue, since some scripts use several queues.
  '431/P',
}
