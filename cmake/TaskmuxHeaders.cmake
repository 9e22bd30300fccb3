# Every header of the core: installed, and each compiled on its own by the target all_verify_interface_header_sets.
set(taskmux_headers
    include/taskmux/broker.hpp
    include/taskmux/clock.hpp
    include/taskmux/detail/config.hpp
    include/taskmux/detail/memory_broker_impl.hpp
    include/taskmux/detail/memory_queue.hpp
    include/taskmux/detail/memory_task.hpp
    include/taskmux/detail/memory_unique_key.hpp
    include/taskmux/detail/memory_watches.hpp
    include/taskmux/detail/mutex.hpp
    include/taskmux/detail/utf8.hpp
    include/taskmux/error.hpp
    include/taskmux/logger.hpp
    include/taskmux/memory/memory_broker.hpp
    include/taskmux/queue_view.hpp
    include/taskmux/task.hpp
    include/taskmux/version.hpp)
