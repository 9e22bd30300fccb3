#include "redis/session/server_contact.hpp"

#include <algorithm>

#include "redis/net/epoch.hpp"

namespace taskmux::redis {

void ServerContact::answered(std::uint64_t epoch, SteadyTime sent_at, SteadyTime answered_at) {
  if (epoch_.load(std::memory_order_acquire) != epoch) {
    detail::MutexLock lock{mutex_};
    const std::uint64_t before = epoch_.load(std::memory_order_relaxed);
    if (before == none || !one_server_ || server_of(before) != server_of(epoch)) {
      begin(epoch, answered_at);
    } else if (before != epoch) {
      add({answered_at, answered_at - last_sent()});
      epoch_.store(epoch, std::memory_order_release);
    }
  }
  note_sent(sent_at);
}

void ServerContact::broken(SteadyTime now) {
  detail::MutexLock lock{mutex_};
  begin(epoch_.load(std::memory_order_relaxed), now);
}

bool ServerContact::lasted(Duration length, std::uint64_t epoch, SteadyTime now) const {
  const SteadyTime::duration borne = length / 3;
  detail::MutexLock lock{mutex_};
  const std::uint64_t known = epoch_.load(std::memory_order_relaxed);
  if (known == none || now - since_ < length) return false;
  if (known != epoch) {  // Interrupted, and no call has succeeded since.
    if (!one_server_ || server_of(known) != server_of(epoch)) return false;
    if (now - last_sent() > borne) return false;
  }
  return std::none_of(gaps_.begin(), gaps_.end(), [&](const Gap& gap) {
    return gap.length > borne && now - gap.end < length;
  });
}

void ServerContact::note_sent(SteadyTime sent_at) noexcept {
  const SteadyTime::rep sent = sent_at.time_since_epoch().count();
  SteadyTime::rep last = last_sent_.load(std::memory_order_relaxed);
  while (last < sent && !last_sent_.compare_exchange_weak(last, sent, std::memory_order_relaxed)) {
  }
}

void ServerContact::begin(std::uint64_t epoch, SteadyTime now) {
  since_ = now;
  gaps_.clear();
  epoch_.store(epoch, std::memory_order_release);
}

// An earlier gap that is no longer than a later one is irrelevant.
void ServerContact::add(Gap gap) {
  while (!gaps_.empty() && gaps_.back().length <= gap.length) gaps_.pop_back();
  if (gaps_.size() == most_gaps) {
    gap.length = gaps_.back().length;
    gaps_.pop_back();
  }
  gaps_.push_back(gap);
}

}  // namespace taskmux::redis
