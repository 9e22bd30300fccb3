#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace taskmux::redis {

/// Commands in wire format. Arguments may contain any bytes and are copied once, into this.
class Commands {
 public:
  /// Adds one command: `commands.add({"LPUSH", key, id})`.
  Commands& add(std::initializer_list<std::string_view> args) {
    return add(std::span<const std::string_view>{args.begin(), args.size()});
  }
  Commands& add(std::span<const std::string_view> args) { return add_range(args); }
  Commands& add(std::span<const std::string> args) { return add_range(args); }

  /// Begins a command of `argument_count` arguments (including its name), each of which must then
  /// be added by arg().
  Commands& begin(std::size_t argument_count);
  Commands& arg(std::string_view bytes);
  /// Makes room for arguments of `bytes` in all, so that none is copied again as more are added.
  void reserve(std::size_t bytes, std::size_t argument_count);

  std::size_t size() const noexcept { return count_; }  ///< The number of commands.
  bool empty() const noexcept { return count_ == 0; }
  std::string_view bytes() const noexcept { return bytes_; }
  /// Removes all commands. Keeps the memory unless it is large.
  void clear();

 private:
  template <typename Args>
  Commands& add_range(const Args& args) {
    begin(args.size());
    for (const auto& each : args) arg(each);
    return *this;
  }
  void add_header(char kind, std::size_t number);

  std::string bytes_;
  std::size_t count_ = 0;
};

}  // namespace taskmux::redis
