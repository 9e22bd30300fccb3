#include "taskmux/detail/memory/unique_key.hpp"

#include <set>
#include <string>

#include "support/test.hpp"

namespace taskmux::detail {
namespace {

std::string bytes_up_to(std::size_t length) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += static_cast<char>(i);
  return text;
}

// The key 00 01 .. 0f, as in the algorithm's published vectors.
constexpr SipHash128::Key counting_key{0x0706050403020100, 0x0f0e0d0c0b0a0908};

TEST_CASE("SipHash128 agrees with the published vectors", "[memory]") {
  CHECK(SipHash128::of(counting_key, "") ==
        SipHash128::Digest{0xe6a825ba047f81a3, 0x930255c71472f66d});
  CHECK(SipHash128::of(counting_key, bytes_up_to(1)) ==
        SipHash128::Digest{0x44af996bd8c187da, 0x45fc229b11597634});
}

TEST_CASE("texts of every length around a word have different hashes", "[memory]") {
  std::set<SipHash128::Digest> digests;
  for (std::size_t length = 0; length <= 40; ++length) {
    digests.insert(SipHash128::of(counting_key, bytes_up_to(length)));
    digests.insert(SipHash128::of(counting_key, std::string(length, '\0')));
  }
  CHECK(digests.size() == 80);  // the empty and the one-byte text are the same in both
}

TEST_CASE("a unique key distinguishes no payload from an empty one, and types from payloads",
          "[memory]") {
  const MemoryUniqueKeys keys;
  const Task none{.type = "a"};
  const Task full{.type = "a", .payload = "b"};
  CHECK(keys.key(none, false) != keys.key(none, true));
  CHECK(keys.key(full, false) == keys.key(full, true));
  CHECK(keys.key(full, false) == keys.key(full, false));
  CHECK(keys.key(full, false) != keys.key({.type = "a:b"}, false));
  CHECK(keys.key(full, false) != MemoryUniqueKeys{}.key(full, false));
  CHECK(keys.key({.type = "a", .payload = std::string(1'000'000, 'x')}, false).size() < 40);
}

}  // namespace
}  // namespace taskmux::detail
