#include "taskmux/detail/engine/lost_takes.hpp"

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::detail;
using namespace std::chrono_literals;

namespace {

const SteadyTime start{1h};

void lose(LostTakes& lost, std::uint64_t block, std::vector<QueueQuota> quotas) {
  lost.reserve(quotas.size());
  lost.add(block, std::move(quotas), start);
}
void lose_a_and_b(LostTakes& lost, std::uint64_t block) { lose(lost, block, {{"a", 1}, {"b", 1}}); }

}  // namespace

TEST_CASE("a lost call is recalled at once, with its age, and then at intervals", "[lost]") {
  LostTakes lost{41};
  CHECK(lost.empty());
  lose_a_and_b(lost, 1);
  CHECK(lost.recall_at() == start);
  const std::vector<LostTake> takes = lost.to_recall(start + 3s);
  REQUIRE(takes.size() == 1);
  CHECK(takes[0].token_block == 1);
  CHECK(takes[0].queues == std::vector<std::string>{"a", "b"});
  CHECK(takes[0].age == 3s);

  lost.note_reply(takes, 2, start + 3s, true);
  CHECK(lost.recall_at() == start + 3s + 500ms);
  CHECK(lost.to_recall(start + 3s).empty());
  REQUIRE(lost.to_recall(start + 4s).size() == 1);
  CHECK(lost.to_recall(start + 4s)[0].age == 4s);

  lost.note_reply({}, 3, start + 4s, true);
  CHECK(lost.empty());
  CHECK_FALSE(lost.recall_at());
}

TEST_CASE("a call that could take nothing is not recalled", "[lost]") {
  LostTakes lost{41};
  lose(lost, 1, {});
  CHECK(lost.empty());
}

TEST_CASE("a queue owes what a lost call took of it until it has answered", "[lost]") {
  LostTakes lost{41};
  lose_a_and_b(lost, 1);
  CHECK(lost.owed_by("a"));
  CHECK(lost.owed_by("b"));
  CHECK_FALSE(lost.owed_by("c"));
  const LostTake silent[] = {{.token_block = 1, .queues = {"b"}}};
  lost.note_reply(silent, 2, start, true);
  CHECK_FALSE(lost.owed_by("a"));
  CHECK(lost.owed_by("b"));
  const LostTake answered[] = {{.token_block = 1, .queues = {"b"}, .answered = true}};
  lost.note_reply(answered, 3, start, true);
  CHECK_FALSE(lost.owed_by("b"));
  CHECK_FALSE(lost.empty());
}

TEST_CASE("a call is lost in part if a part of the store did not answer", "[lost]") {
  LostTakes lost{41};
  lose_a_and_b(lost, 1);
  const LostTake own[] = {{.token_block = 2, .queues = {"c"}}};
  lost.note_reply(own, 2, start + 1s, false);
  CHECK(lost.owed_by("a"));  // It was not recalled, and so nothing is known of it.
  CHECK(lost.owed_by("c"));
  CHECK(lost.recall_at() == start + 1s);
  const std::vector<LostTake> takes = lost.to_recall(start + 1s);
  REQUIRE(takes.size() == 2);
  CHECK(takes[0].age == 1s);
  CHECK(takes[1].age == 0s);
}

TEST_CASE("an exchange that neither recalls nor loses anything changes nothing", "[lost]") {
  LostTakes lost{41};
  lose_a_and_b(lost, 1);
  lost.note_reply({}, 2, start + 1s, false);
  CHECK(lost.to_recall(start).size() == 1);
}

TEST_CASE("token blocks have 48 bits, and are never 0", "[lost]") {
  LostTakes lost{0xffff'ffff'fffe};
  CHECK(lost.next_block() == 0xffff'ffff'ffff);
  CHECK(lost.next_block() == 1);
  CHECK(lost.next_block() == 2);
}
