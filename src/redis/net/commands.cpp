#include "redis/net/commands.hpp"

#include <array>
#include <charconv>
#include <string>

namespace taskmux::redis {
namespace {

constexpr std::size_t kept_bytes = std::size_t{1} << 20;
constexpr std::size_t longest_header = 24;

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

void Commands::reserve(std::size_t bytes, std::size_t argument_count) {
  bytes_.reserve(bytes_.size() + bytes + (argument_count + 1) * (longest_header + 2));
}

void Commands::clear() {
  if (bytes_.capacity() > kept_bytes) {
    std::string{}.swap(bytes_);  // An assignment would keep the memory.
  } else {
    bytes_.clear();
  }
  count_ = 0;
}

void Commands::add_header(char kind, std::size_t number) {
  std::array<char, longest_header> text;
  text[0] = kind;
  auto* end = std::to_chars(text.data() + 1, text.data() + text.size(), number).ptr;
  *end++ = '\r';
  *end++ = '\n';
  bytes_.append(text.data(), end);
}

}  // namespace taskmux::redis
