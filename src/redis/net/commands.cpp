#include "redis/net/commands.hpp"

#include <array>
#include <charconv>
#include <string>

namespace taskmux::redis {
namespace {

constexpr std::size_t kept_bytes = std::size_t{1} << 20;

}  // namespace

Commands& Commands::begin(std::size_t argument_count) {
  add_header('*', argument_count);
  ++count_;
  return *this;
}

Commands& Commands::arg(std::string_view bytes) {
  add_header('$', bytes.size());
  bytes_.append(bytes).append("\r\n", 2);
  return *this;
}

void Commands::clear() {
  if (bytes_.capacity() > kept_bytes) {
    bytes_ = {};
  } else {
    bytes_.clear();
  }
  count_ = 0;
}

void Commands::add_header(char kind, std::size_t number) {
  std::array<char, 24> text;
  text[0] = kind;
  auto* end = std::to_chars(text.data() + 1, text.data() + text.size(), number).ptr;
  *end++ = '\r';
  *end++ = '\n';
  bytes_.append(text.data(), end);
}

}  // namespace taskmux::redis
