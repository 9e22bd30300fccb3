#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <taskmux/json.hpp>
#include <vector>

// A JSON text is read or refused, whatever its bytes are, and what is read is the same again once
// written.

namespace {

struct Leaf {
  std::uint8_t small = 0;
  float fraction = 0;
  std::string text{};

  bool operator==(const Leaf&) const = default;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Leaf, small, fraction, text)

struct Tree {
  std::int64_t number = 0;
  bool flag = false;
  std::vector<Leaf> leaves{};
  std::map<std::string, std::vector<int>> lists{};

  bool operator==(const Tree&) const = default;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Tree, number, flag, leaves, lists)

template <typename T>
void check(std::string_view text) {
  try {
    const T value = taskmux::from_json_text<T>(text);
    if (!(taskmux::from_json_text<T>(taskmux::to_json_text(value)) == value)) std::abort();
  } catch (const taskmux::Error& error) {
    if (error.errc() != taskmux::Errc::malformed) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  check<Tree>(bytes);
  check<Leaf>(bytes);
  check<std::vector<std::uint16_t>>(bytes);
  check<std::map<std::string, double>>(bytes);
  const std::string text{bytes};
  check<Tree>(R"({"number":)" + text + R"(,"flag":true,"leaves":[],"lists":{}})");
  check<Leaf>(R"({"small":1,"fraction":)" + text + R"(,"text":"x"})");
  return 0;
}
