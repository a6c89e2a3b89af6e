// The product's driver of a draft engine: one thread that drains commands and makes passes while there is something to
// guess.
//
// Messages only fill the queue; a pass follows each drain. The loop sleeps when there is neither a command nor work.
// Hooks and commands are called on the loop's thread.
#pragma once

#include <condition_variable>
#include <thread>

#include "actors/draft_driver.hpp"

namespace troupe::actors {

class draft_loop final : public draft_driver {
 public:
  draft_loop(std::unique_ptr<engine::draft_engine> engine, hooks h);
  ~draft_loop() override;  // stops

  void stop() override;  // ends the thread after the pass under way

 private:
  void wake() override { wake_.notify_one(); }
  void run();

  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace troupe::actors
