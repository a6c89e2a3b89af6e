// Metrics of a draft node. Any thread.
#pragma once

#include <mutex>

#include "actors/metrics.hpp"
#include "engine/draft_engine.hpp"

namespace troupe::actors {

class draft_metrics : public device_metrics {
 public:
  explicit draft_metrics(const std::string& node);
  void update(const engine::draft_stats& now);  // counters advance by what was added since

 private:
  std::mutex mutex_;
  engine::draft_stats last_;
  prometheus::Counter &passes_, &prompt_tokens_, &drafted_, &agreed_, &cut_, &evictions_;
  prometheus::Gauge &sequences_, &blocks_free_;
};

}  // namespace troupe::actors
