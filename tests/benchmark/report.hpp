#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "options.hpp"

namespace taskmux::bench {

/// What a scenario has measured.
struct Report {
  std::vector<double> tasks_per_s{};  ///< One for each repeat.
  std::vector<double> samples_ms{};   ///< One for each task of latency and schedule.
  /// Further figures by name, one for each repeat.
  std::vector<std::pair<std::string, std::vector<double>>> figures{};
  bool checked = false;  ///< Every task was seen to have run exactly once.

  void add(std::string_view name, double value);
};

/// `samples` must not be empty. `share` lies in 0 ... 1.
double percentile(std::vector<double> samples, double share);
double median(const std::vector<double>& samples);

/// One JSON object, without a newline.
std::string as_json(const Options& options, const Report& report);
/// A line for people.
std::string as_text(const Options& options, const Report& report);

}  // namespace taskmux::bench
