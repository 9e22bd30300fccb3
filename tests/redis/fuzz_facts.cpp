#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "redis/ops/runs.hpp"

// What lies in tmx_facts and tmx_run is read, whatever its bytes are; what is read is the same
// again once written, also by a later version that adds words.

using namespace taskmux::redis;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

bool same(const Facts& a, const Facts& b) {
  return a.enqueued_at == b.enqueued_at && a.expires_at == b.expires_at && a.crashes == b.crashes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  // Compared after one encoding, since an instant too far in the future is clamped.
  const Facts facts = parse_facts(to_text(parse_facts(bytes)));
  require(facts.crashes >= 0);
  const std::string text = to_text(facts);
  require(same(parse_facts(text), facts));
  require(same(parse_facts(text + " 1 more words"), facts));

  const std::string_view score = bytes.substr(0, bytes.find(' '));
  const auto taken = taken_at(bytes, score);
  const std::string run = "0123456789abcdef " + std::string{score} + " " + std::string{bytes};
  static_cast<void>(taken_at(run, score));
  static_cast<void>(taken);
  return 0;
}
