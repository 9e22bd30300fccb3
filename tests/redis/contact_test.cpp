#include "redis/session/server_contact.hpp"

#include "redis/net/epoch.hpp"
#include "redis/session/server_clock.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace std::chrono_literals;

namespace {

constexpr SteadyTime start{1h};

/// A server in whose life things happen at seconds from the start.
struct Line {
  explicit Line(bool one_server = true) : contact{one_server} {}

  ServerContact contact;
  std::uint64_t epoch = 1;

  /// Makes successful calls each second of [from, to].
  void succeed(int from, int to) {
    for (int second = from; second <= to; ++second) {
      contact.answered(epoch, start + std::chrono::seconds{second},
                       start + std::chrono::seconds{second} + 10ms);
    }
  }
  /// Returns whether contact has lasted for 9 s.
  bool lasted(int at) const { return contact.lasted(9s, epoch, start + std::chrono::seconds{at}); }
};

}  // namespace

TEST_CASE("contact begins with the first call that succeeds", "[contact]") {
  Line line;
  CHECK_FALSE(line.lasted(20));
  line.succeed(20, 30);
  CHECK_FALSE(line.lasted(29));
  CHECK(line.lasted(30));
}

TEST_CASE("a connection that is cut and restored at once does not break contact", "[contact]") {
  Line line;
  for (int second = 0; second <= 30; ++second) {
    line.succeed(second, second);
    line.epoch += 2;  // Lost, and restored.
    if (second > 10) CHECK(line.lasted(second));
  }
}

TEST_CASE("an interruption lasts from one successful call to the next", "[contact]") {
  Line line;
  line.succeed(0, 20);
  ++line.epoch;
  const int gap = GENERATE(1, 2, 3, 4, 20);
  const bool borne = gap < 3;  // From when the call before was sent to the next reply.
  CHECK(line.lasted(20 + gap) == (gap <= 3));  // During the interruption.
  ++line.epoch;
  line.succeed(20 + gap, 60);
  CHECK(line.lasted(20 + gap + 1) == borne);
  CHECK(line.lasted(20 + gap + 8) == borne);
  CHECK(line.lasted(20 + gap + 10));
}

TEST_CASE("a long interruption is not hidden by short ones that follow", "[contact]") {
  Line line;
  line.succeed(0, 20);
  ++line.epoch;
  line.succeed(25, 25);
  for (int second = 26; second <= 40; ++second) {
    for (int i = 0; i < 100; ++i) {
      ++line.epoch;
      line.succeed(second, second);
    }
    CHECK(line.lasted(second) == (second > 34));
  }
}

TEST_CASE("another server, a jump of its clock, or several servers break contact", "[contact]") {
  const int kind = GENERATE(1, 2, 3);
  Line line{kind != 3};
  line.succeed(0, 20);
  CHECK(line.lasted(20));
  if (kind == 1) line.epoch += another_server;
  if (kind == 2) line.contact.broken(start + 20s);
  if (kind == 3) ++line.epoch;
  CHECK_FALSE(line.lasted(20));
  line.succeed(20, 40);
  CHECK_FALSE(line.lasted(28));
  CHECK(line.lasted(30));
}

TEST_CASE("a server's clock jumps if it goes ahead or falls behind by more than the calls explain",
          "[contact]") {
  struct Case {
    Duration steady;  // between the calls
    Duration there;
    Duration first_took;
    Duration second_took;
    bool jumped;
  };
  const Case c = GENERATE(Case{10s, 10s, 0s, 0s, false}, Case{10s, 11s, 0s, 0s, false},
                          Case{10s, 11001ms, 0s, 0s, true}, Case{10s, 9s, 0s, 0s, false},
                          Case{10s, 8999ms, 0s, 0s, true}, Case{10s, 13s, 0s, 3s, false},
                          Case{10s, 14001ms, 0s, 3s, true}, Case{10s, 7s, 3s, 0s, false},
                          Case{10s, 5999ms, 3s, 0s, true}, Case{10s, -1h, 0s, 0s, true},
                          Case{10s, 1h, 0s, 0s, true});
  CAPTURE(c.there, c.first_took, c.second_took);
  ServerClock clock;
  const Time there{1000h};
  CHECK_FALSE(clock.note("a", there, start, start + c.first_took));
  CHECK_FALSE(clock.note("b", there + 1h, start, start));
  CHECK(clock.note("a", there + c.there, start + c.steady, start + c.steady + c.second_took) ==
        c.jumped);
  CHECK(clock.at("a", start + c.steady + 1s) == there + c.there + 1s);
}
