#pragma once

#include <string>
#include <string_view>

#include "redis/scripts/sha1.hpp"

namespace taskmux::redis {

/// A Lua script. Scripts are constants of the program and never moved, since connections remember
/// by address which scripts their server has. Must outlive every Transport that ran it.
struct Script {
  Script(std::string_view script_name, std::string_view script_source)
      : name{script_name}, source{script_source}, sha1{sha1_hex(source)} {}
  Script(const Script&) = delete;
  Script& operator=(const Script&) = delete;

  const std::string name;  ///< For error texts.
  const std::string source;
  const std::string sha1;
};

}  // namespace taskmux::redis
