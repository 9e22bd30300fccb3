#include "taskmux/detail/base/earlier.hpp"

#include <optional>

#include "support/test.hpp"

using taskmux::detail::earlier;

TEST_CASE("the earlier of two instants is returned, and an unset one counts as never",
          "[earlier]") {
  using Maybe = std::optional<int>;
  CHECK(earlier(Maybe{1}, 2) == 1);
  CHECK(earlier(Maybe{2}, 1) == 1);
  CHECK(earlier(Maybe{1}, std::nullopt) == 1);
  CHECK(earlier(Maybe{}, 1) == 1);
  CHECK(earlier(Maybe{}, std::nullopt) == std::nullopt);
}
