#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace taskmux::redis {

/// One argument or key of a script, as bytes. It has no default, so that an aggregate of arguments
/// that lacks one does not compile: see lua_arguments.hpp in the build folder, which EmbedLua.cmake
/// writes.
class Argument {
 public:
  Argument(std::string bytes) noexcept : bytes_{std::move(bytes)} {}
  Argument(std::string_view bytes) : bytes_{bytes} {}
  Argument(const char* bytes) : bytes_{bytes} {}
  /// Encodes a number in decimal digits; a bool as 0 or 1.
  template <std::integral Number>
  requires(!std::same_as<Number, char>) Argument(Number number) : bytes_{std::to_string(number)} {}

  void append_to(std::vector<std::string>& args) && { args.push_back(std::move(bytes_)); }

 private:
  std::string bytes_;
};

}  // namespace taskmux::redis
