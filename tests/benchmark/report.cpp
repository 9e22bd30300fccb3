#include "report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace taskmux::bench {
namespace {

using Figures = std::vector<std::pair<std::string, double>>;

Figures figures_of(const Report& report) {
  Figures figures;
  if (!report.tasks_per_s.empty()) {
    figures.emplace_back("tasks_per_s", median(report.tasks_per_s));
    figures.emplace_back("tasks_per_s_min", percentile(report.tasks_per_s, 0));
    figures.emplace_back("tasks_per_s_max", percentile(report.tasks_per_s, 1));
  }
  if (!report.samples_ms.empty()) {
    figures.emplace_back("p50_ms", median(report.samples_ms));
    figures.emplace_back("p99_ms", percentile(report.samples_ms, 0.99));
    figures.emplace_back("max_ms", percentile(report.samples_ms, 1));
    figures.emplace_back("min_ms", percentile(report.samples_ms, 0));
  }
  for (const auto& [name, values] : report.figures) figures.emplace_back(name, median(values));
  return figures;
}

std::string number(double value) {
  std::array<char, 64> text{};
  const char* const format = std::abs(value) >= 1000 ? "%.0f" : "%.4g";
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

std::string quoted(std::string_view text) {
  std::string out{'"'};
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

/// The broker's URL without user and password.
std::string shown_broker(const std::string& broker) {
  const std::size_t scheme = broker.find("://");
  const std::size_t at = broker.rfind('@');
  if (scheme == std::string::npos || at == std::string::npos) return broker;
  return broker.substr(0, scheme + 3) + broker.substr(at + 1);
}

}  // namespace

void Report::add(std::string_view name, double value) {
  for (auto& [known, values] : figures) {
    if (known == name) return values.push_back(value);
  }
  figures.push_back({std::string{name}, {value}});
}

double percentile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  const double at = std::ceil(share * static_cast<double>(samples.size())) - 1;
  return samples[static_cast<std::size_t>(std::max(at, 0.0))];
}

double median(const std::vector<double>& samples) { return percentile(samples, 0.5); }

std::string as_json(const Options& options, const Report& report) {
  std::string out = "{\"scenario\": " + quoted(to_string(options.scenario)) +
                    ", \"broker\": " + quoted(shown_broker(options.broker));
  const auto add = [&out](std::string_view name, const std::string& value) {
    out += ", " + quoted(name) + ": " + value;
  };
  add("tasks", std::to_string(options.tasks));
  add("concurrency", std::to_string(options.concurrency));
  add("producers", std::to_string(options.producers));
  add("batch", std::to_string(options.batch));
  add("payload", std::to_string(options.payload));
  add("repeat", std::to_string(options.repeat));
  for (const auto& [name, value] : figures_of(report)) add(name, number(value));
  if (report.checked) add("exactly_once", "true");
  return out + '}';
}

std::string as_text(const Options& options, const Report& report) {
  std::string out{to_string(options.scenario)};
  out += " on " + shown_broker(options.broker) + ':';
  for (const auto& [name, value] : figures_of(report)) out += "  " + name + ' ' + number(value);
  if (report.checked) out += "  (every task ran exactly once)";
  return out;
}

}  // namespace taskmux::bench
